"use strict";
// The whole page: one place of the photograph for all models, what is chosen, keys, and what a test may ask.

const HELP = "Arrow keys move, Enter pins, Shift or C turns to the column, [ and ] change the layer, T the matrix, H the head, Escape lets go.";

class Page {
  constructor(data, buffer, image) {
    this.palettes = data.palettes;
    this.marker = data.marker;
    this.size = data.size;
    this.image = image;
    this.pale = pale(image);
    this.small = picture(192, Math.max(1, Math.round((192 * data.size[0]) / data.size[1])));
    this.small.getContext("2d").drawImage(this.pale, 0, 0, this.small.width, this.small.height);
    this.place = [0.5, 0.5];
    this.pinned = this.column = false;
    this.other = null; // a token before the grid, such as a class token
    this.models = data.models.map((model) => ({ ...model, buffer, layers: model.layers.map((layer, index) => new Layer(layer, index, buffer)) }));
    this.panels = this.models.map((model) => new Panel(model, this));
    this.live = element("p", { class: "unseen", "aria-live": "polite" });
    this.waiting = [];
    const main = document.querySelector("main");
    main.classList.toggle("two", this.panels.length > 1);
    for (const panel of this.panels) {
      panel.fields = new Fields(panel);
      panel.section.append(panel.fields.section, numbersTable(panel), unshownList(panel.model));
      main.append(panel.section);
    }
    document.body.append(this.live);
    this.keys();
    for (const panel of this.panels) panel.controls();
    this.refresh();
    new ResizeObserver(() => this.refresh()).observe(main);
  }
  keys() {
    const shift = (event) => event.key === "Shift" && !event.repeat && this.turn(event.type === "keydown");
    addEventListener("keydown", shift);
    addEventListener("keyup", shift);
  }
  // The mouse is over a place; a pinned one stays.
  point(place, column) {
    if (this.pinned) return;
    this.other = null;
    this.place = place;
    if (column !== this.column) this.turn(column);
    else this.soon();
  }
  pin(place, column) {
    this.pinned = !this.pinned;
    if (this.pinned) {
      this.place = place;
      this.other = null;
      if (column) this.column = true;
    }
    for (const panel of this.panels) panel.section.classList.toggle("pinned", this.pinned);
    this.refresh();
    this.announce();
  }
  turn(column) {
    if (column === this.column) return;
    this.column = column;
    for (const panel of this.panels) panel.controls();
    this.refresh();
  }
  before(token) {
    this.other = token;
    for (const panel of this.panels) panel.controls();
    this.refresh();
  }
  // Another layer, matrix or head of a model; the other models follow where they have a layer of that name.
  choose(panel, index, { map = panel.map, head = panel.head } = {}) {
    const name = panel.layers[index].name;
    for (const each of this.panels) {
      const same = each === panel ? index : each.layers.findIndex((layer) => layer.name === name);
      if (same >= 0) Object.assign(each, { chosen: same, map, head });
      each.controls();
    }
    this.refresh();
    this.announce();
  }
  visit(panel, index, place) {
    Object.assign(this, { place, pinned: true, column: true, other: null });
    this.choose(panel, index);
    panel.canvas.scrollIntoView({ block: "nearest" });
  }
  select(panel) {
    panel.lines?.forEach((line, index) => line.classList.toggle("chosen", index === panel.chosen));
  }
  key(event, panel) {
    const { layer } = panel, { grid, extent } = this.column ? layer.source : layer.target;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const next = (all, now) => all[(all.indexOf(now) + 1) % all.length];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) {
      this.place = this.place.map((part, axis) => {
        const length = Math.floor(grid[axis] / extent[axis] + 1e-9) || 1, at = Math.min(length - 1, Math.floor(part * (grid[axis] / extent[axis])));
        return ((Math.min(length - 1, Math.max(0, at + moves[event.key][axis])) + 0.5) * extent[axis]) / grid[axis];
      });
      this.other = null;
      this.pinned = true;
      this.refresh();
    } else if (event.key === "Enter" || event.key === " ") this.pin(this.place, this.column);
    else if (event.key === "Escape") Object.assign(this, { pinned: false, other: null });
    else if (event.key === "c" || event.key === "C") this.turn(!this.column);
    else if (event.key === "[") panel.choose(panel.chosen - 1);
    else if (event.key === "]") panel.choose(panel.chosen + 1);
    else if (event.key === "t" || event.key === "T") this.choose(panel, panel.chosen, { map: next(layer.maps, panel.shownMap) });
    else if (event.key === "h" || event.key === "H") this.choose(panel, panel.chosen, { head: next(["mean", ...Array(headsShown(panel)).keys()], panel.head) });
    else return;
    for (const each of this.panels) each.section.classList.toggle("pinned", this.pinned);
    event.preventDefault();
    this.announce();
  }
  soon() {
    if (this.planned) return;
    this.planned = requestAnimationFrame(() => this.refresh());
  }
  // The main pictures at once, then the small ones, a few a frame.
  refresh() {
    cancelAnimationFrame(this.planned);
    this.planned = null;
    let took = 0;
    for (const panel of this.panels) took += panel.draw();
    this.waiting = this.panels.flatMap((panel) => [() => panel.fields.draw(), ...panel.later()]);
    if (!this.working) this.work();
    return took;
  }
  work() {
    this.working = requestAnimationFrame(() => {
      const end = performance.now() + 12;
      while (this.waiting.length && performance.now() < end) this.waiting.shift()();
      this.working = null;
      if (this.waiting.length) this.work();
    });
  }
  announce() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.live.textContent = this.panels.map((panel) => (this.panels.length > 1 ? `${panel.model.name}: ` : "") + panel.reading.textContent).join(" ")), 350);
    for (const panel of this.panels) panel.canvas.setAttribute("aria-label", `Photograph with the map of ${panel.layer.label}. ${HELP}`);
  }
}

function themes() {
  const button = document.getElementById("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const tell = () => (button.textContent = isDark() ? "light" : "dark");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    tell();
    window.contagg.page.refresh();
  });
  tell();
}

// For tests and notebooks: rows and columns as numbers, weighted as A has them and not in times uniform.
async function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const buffer = await unpackStore(document.getElementById("store").textContent);
  const image = document.getElementById("image");
  await image.decode();
  const page = new Page(data, buffer, image);
  const weights = (column) => (layer, token, options = {}) => Array.from(page.models[options.model ?? 0].layers[layer].weights(token, { ...options, column }));
  Object.assign(window.contagg, {
    page,
    layers: (model = 0) => page.models[model].layers.map(({ name, label, heads, maps }) => ({ name, label, heads, maps })),
    row: weights(false),
    column: weights(true),
    hover: (y, x) => {
      page.place = [y, x];
      for (const layer of page.models.flatMap((model) => model.layers)) layer.kept.clear();
      return page.refresh();
    },
    idle: () => !page.waiting.length,
  });
  themes();
  return window.contagg;
}

window.contagg = {};
window.contagg.ready = start().catch((error) => {
  document.querySelector("main").append(element("p", { class: "untrained" }, `This page cannot be shown: ${error.message}. It needs a browser of 2023 or newer.`));
  throw error;
});
