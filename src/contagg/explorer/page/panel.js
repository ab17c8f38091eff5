"use strict";
// One model: its photograph with the map of the chosen layer, the heads, the strip of all layers, and its numbers.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const SHOWN_HEADS = 64;
const KINDS = { dynamic: "depends on the image", static: "learnt, alike for all images", linearised: "an MLP over tokens, by its slope at this image" };

class Panel {
  constructor(model, page) {
    Object.assign(this, { model, page, chosen: model.first, map: "mixed", head: "mean", query: 0 });
    this.layers = model.layers;
    this.build();
  }
  get layer() {
    return this.layers[this.chosen];
  }
  get shownMap() {
    return this.layer.maps.includes(this.map) ? this.map : this.layer.maps[this.layer.terms.length > 1 ? this.layer.terms.length : 0];
  }
  build() {
    this.canvas = element("canvas", { class: "photo", tabindex: 0, role: "img" });
    this.title = element("h3", {});
    this.tabs = element("div", { class: "tabs", role: "group", "aria-label": "Which matrix" });
    this.direction = element("div", { class: "tabs", role: "group", "aria-label": "Row or column" });
    this.others = element("div", { class: "tabs", role: "group", "aria-label": "Tokens that lie on no grid" });
    this.bar = element("canvas", { class: "scale", role: "img" });
    this.reading = element("p", { class: "reading" });
    this.heads = element("div", { class: "heads", role: "group", "aria-label": "Heads" });
    this.strip = element("div", { class: "strip", role: "group", "aria-label": "Layers" });
    const step = (by, name, label) => element("button", { type: "button", class: "step", "aria-label": label, onclick: () => this.choose(this.chosen + by) }, name);
    const side = element(
      "div", { class: "side" },
      element("div", { class: "head" }, step(-1, "‹", "Previous layer"), this.title, step(1, "›", "Next layer")),
      this.tabs, this.direction, this.others, this.reading, this.bar,
      element("h4", {}, "Heads"), this.heads,
    );
    this.note = this.model.untrained ? element("p", { class: "untrained" }, "random weights: this network was not trained") : "";
    this.section = element(
      "section", { class: "model", "aria-label": this.model.name },
      element("h2", {}, this.model.name, element("span", {}, this.model.about)), this.note,
      element("div", { class: "stage" }, element("figure", {}, this.canvas), side),
      element("h3", { class: "above" }, "All layers, for the same place"), this.strip,
    );
    this.photo = element("canvas", { class: "colour", role: "img", "aria-label": "The photograph in its colours" });
    this.strip.append(element("div", { class: "group" }, element("span", { class: "stagename" }, "image"), element("div", { class: "row" }, element("div", { class: "thumb still" }, this.photo))));
    this.thumbs = this.layers.map((layer) => this.thumb(layer));
    const kinds = [...new Set(this.layers.flatMap((layer) => layer.terms.map((term) => term.name.split(" ")[0])))];
    const key = (kind) => element("span", {}, element("i", { class: `part ${kind}` }), `${kind}${KINDS[kind] ? `: ${KINDS[kind]}` : ""}`);
    this.section.append(element("p", { class: "key" }, this.layers.some((layer) => layer.terms.length > 1) ? "The bar: sizes of the weights of " : "The bar: ", ...kinds.map(key)));
    this.listen();
  }
  thumb(layer) {
    if (!layer.index || layer.stage !== this.layers[layer.index - 1].stage)
      this.group = this.strip.appendChild(element("div", { class: "group" }, element("span", { class: "stagename" }, layer.stage || "layers"), element("div", { class: "row" })));
    const canvas = element("canvas", { width: 96, height: 96 });
    const button = element("button", { type: "button", class: "thumb", "aria-label": `${layer.label}: ${layer.name}`, title: layer.name, onclick: () => this.choose(layer.index) },
      canvas, element("span", { class: "name" }, layer.label.replace(/^stage \d+, /, "")), this.gate(layer));
    this.group.lastChild.append(button);
    return { layer, canvas, button };
  }
  // alpha : beta as a bar; where a layer has one matrix alone, what it is.
  gate(layer) {
    if (layer.terms.length < 2) return element("span", { class: `only ${layer.terms[0].name.split(" ")[0]}`, title: layer.terms[0].name });
    const sizes = layer.terms.map((term) => term.weight.reduce((sum, each) => sum + Math.abs(each), 0) / term.weight.length);
    const whole = sizes.reduce((a, b) => a + b, 0) || 1;
    const said = layer.terms.map((term, index) => `${term.name} ${sizes[index].toPrecision(2)}`).join(" : ");
    const parts = layer.terms.map((term, index) => {
      const part = element("span", { class: `part ${term.name.split(" ")[0]}` });
      part.style.width = `${(100 * sizes[index]) / whole}%`;
      return part;
    });
    return element("span", { class: "gate", role: "img", "aria-label": said, title: said }, ...parts);
  }
  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((part) => Math.min(0.9999, Math.max(0, part)));
    };
    this.canvas.addEventListener("pointermove", (event) => this.page.point(at(event), event.shiftKey));
    this.canvas.addEventListener("click", (event) => this.page.pin(at(event), event.shiftKey));
    this.canvas.addEventListener("keydown", (event) => this.page.key(event, this));
    this.canvas.addEventListener("pointerleave", () => this.page.announce());
  }
  choose(index) {
    this.page.choose(this, Math.min(this.layers.length - 1, Math.max(0, index)));
  }
  token() {
    const { layer, page } = this;
    if (layer.queries.length && !page.column) return this.query;
    const side = page.column ? layer.source : layer.target;
    return page.other !== null && page.other < side.prefix ? page.other : layer.token(page.place, page.column);
  }
  // The map of a layer for the place, {values, grid, prefix, scale, ...} in times uniform.
  mapOf(layer, map, head) {
    const { page } = this, column = page.column;
    const own = layer === this.layer;
    const side = column ? layer.source : layer.target;
    const other = page.other !== null && page.other < side.prefix;
    const token = layer.queries.length && !column ? this.query : other ? page.other : layer.token(page.place, column);
    const onto = column ? layer.target : layer.source;
    const values = timesUniform(layer.weights(token, { map, head, column }));
    if (layer.queries.length && column) return null;
    const scale = new Scale(values, page.palettes);
    const on = layer.queries.length || other ? null : token - side.prefix;
    return { values, token, on, ...onto, scale, side, own, background: page.pale, marker: page.marker };
  }
  draw() {
    const { layer, page } = this, began = performance.now();
    const width = this.canvas.clientWidth || 480, height = (width * page.size[0]) / page.size[1];
    this.canvas.style.height = `${height}px`;
    const context = sized(this.canvas, width, height);
    const map = this.mapOf(layer, this.shownMap, this.headIndex());
    if (map) {
      drawMap(context, width, height, map);
      const same = layer.source.grid.join() === layer.target.grid.join();
      const near = map.on !== null && same && windowOf(map.values, map.grid, map.prefix, map.on);
      if (near) drawLoupe(context, width, height, map, near, 0.42);
      if (map.on !== null) drawMark(context, width, height, { ...map.side, marker: page.marker }, map.on);
      this.legend(map.scale);
    } else drawMap(context, width, height, { background: page.pale, values: [0], grid: [1, 1], prefix: 0, extent: [1, 1], scale: new Scale([0], page.palettes) });
    this.shown = map;
    this.reading.textContent = this.say(map);
    return performance.now() - began;
  }
  headIndex() {
    return this.head === "mean" || this.head >= headsShown(this) ? "mean" : this.head;
  }
  legend(scale) {
    const width = this.bar.clientWidth || 240, context = sized(this.bar, width, 34), ink = getComputedStyle(this.bar).color;
    context.clearRect(0, 0, width, 34);
    for (let x = 0; x < width; x++) {
      const place = x / (width - 1), root = scale.signed ? 2 * place - 1 : place, colour = new Uint8ClampedArray(4);
      scale.paint(Math.sign(root || 1) * root * root * scale.peak, colour, 0);
      context.fillStyle = "#e4e4e4";
      context.fillRect(x, 0, 1.5, 12);
      context.fillStyle = `rgba(${colour[0]},${colour[1]},${colour[2]},${colour[3] / 255})`;
      context.fillRect(x, 0, 1.5, 12);
    }
    context.fillStyle = ink;
    context.font = "11px system-ui, sans-serif";
    const ticks = scale.signed ? [-scale.peak, -1, 1, scale.peak] : scale.peak > 150 ? [1, scale.peak] : [0, 1, scale.peak];
    for (const tick of ticks) {
      const x = scale.place(tick) * width;
      context.textAlign = x < 12 ? "left" : x > width - 12 ? "right" : "center";
      context.fillText(tick === scale.peak ? `${Number(tick.toPrecision(3))} × uniform` : String(Number(tick.toPrecision(3))), x, 28);
    }
    this.bar.setAttribute("aria-label", `Colours from ${scale.signed ? -scale.peak.toPrecision(3) : 0} to ${scale.peak.toPrecision(3)} times uniform`);
  }
  say(map) {
    const { layer, page } = this;
    if (!map) return "What gathers here lies on no grid: choose one of its queries.";
    const { values, grid, prefix, on, side } = map, [verb, way] = page.column ? ["gives", "to"] : ["gathers", "from"];
    let total = 0, best = prefix, near = 0, before = 0;
    values.forEach((value, at) => {
      total += Math.abs(value);
      if (at < prefix) before += Math.abs(value);
      else if (Math.abs(value) > Math.abs(values[best])) best = at;
    });
    const place = (at) => `(${Math.floor((at - prefix) / grid[1])}, ${(at - prefix) % grid[1]})`;
    const same = side.grid.join() === grid.join();
    let who = layer.queries.length && !page.column ? `Query ${layer.queries[this.query]}` : `Token ${page.other}, before the grid,`;
    if (on !== null) {
      const row = Math.floor(on / side.grid[1]), column = on % side.grid[1];
      who = `Token (${row}, ${column}) of ${side.grid[0]} × ${side.grid[1]}`;
      if (same)
        for (let y = Math.max(0, row - 1); y <= Math.min(grid[0] - 1, row + 1); y++)
          for (let x = Math.max(0, column - 1); x <= Math.min(grid[1] - 1, column + 1); x++) near += Math.abs(values[prefix + y * grid[1] + x]);
    }
    const head = this.headIndex(), count = layer.headsOf(this.shownMap);
    const heads = count === 1 ? "one head" : head === "mean" ? `mean of ${map.scale.signed || this.signed(layer) ? "|A| of " : ""}${count} heads` : `head ${head + 1} of ${count}`;
    const parts = [];
    if (on !== null && same) parts.push(`${percent(near / (total || 1))} ${way} within 3 × 3`);
    if (prefix) parts.push(`${percent(before / (total || 1))} ${way} ${prefix === 1 ? "the class token" : `the ${prefix} tokens before the grid`}`);
    parts.push(`most ${way} ${place(best)}, ${Number(values[best].toPrecision(3))} × uniform`);
    return `${who} ${verb} ${parts.join(", ")}. ${this.shownMap[0].toUpperCase()}${this.shownMap.slice(1)}, ${heads}.`;
  }
  signed(layer) {
    return layer.parts(this.shownMap).some(({ form }) => form.kernel);
  }
  controls() {
    const { layer, page } = this;
    this.title.textContent = `${layer.label} · ${layer.source.grid[0]} × ${layer.source.grid[1]} tokens`;
    this.title.title = layer.name;
    const choice = (group, text, on, pick, title) => group.append(element("button", { type: "button", "aria-pressed": String(on), title, onclick: pick }, text));
    for (const group of [this.tabs, this.direction, this.others, this.heads]) group.replaceChildren();
    for (const map of layer.maps) choice(this.tabs, map, map === this.shownMap, () => page.choose(this, this.chosen, { map }));
    choice(this.direction, "gathers from", !page.column, () => page.turn(false), "row of A");
    choice(this.direction, "gives to", page.column, () => page.turn(true), "column of A; hold Shift");
    const prefix = layer.queries.length ? 0 : layer.target.prefix;
    for (let token = 0; token < prefix; token++)
      choice(this.others, token ? `register ${token}` : "class token", page.other === token, () => page.before(page.other === token ? null : token));
    if (layer.queries.length) {
      const pick = element("select", { "aria-label": "Query", onchange: (event) => { this.query = Number(event.target.value); page.refresh(); } });
      layer.queries.forEach((name, index) => pick.append(element("option", { value: index, selected: index === this.query }, name)));
      this.others.append(pick);
    }
    this.headTiles = [];
    const count = layer.headsOf(this.shownMap);
    this.tile = count > 8 ? 52 : 110;
    for (const head of count > 1 ? ["mean", ...Array(Math.min(count, SHOWN_HEADS)).keys()] : ["mean"]) {
      const canvas = element("canvas", { width: 52, height: 52 }), name = head === "mean" ? (count > 1 ? "mean" : "one head") : String(head + 1);
      const button = element("button", { type: "button", class: "tile", "aria-pressed": String(head === this.headIndex()), "aria-label": head === "mean" ? name : `head ${name}`, onclick: () => page.choose(this, this.chosen, { head }) }, canvas, element("span", {}, name));
      this.heads.append(button);
      this.headTiles.push({ head, canvas });
    }
    if (count > SHOWN_HEADS) this.heads.append(element("span", { class: "more" }, `and ${count - SHOWN_HEADS} more`));
    for (const { layer: each, button } of this.thumbs) button.setAttribute("aria-pressed", String(each === layer));
    this.page.select(this);
  }
  // What is drawn after the main picture, piece by piece.
  *later() {
    yield () => this.original();
    for (const { head, canvas } of this.headTiles) yield () => this.small(canvas, this.tile, this.layer, this.shownMap, head);
    for (const { layer, canvas } of this.thumbs) {
      const map = layer.maps.includes(this.map) ? this.map : layer.maps[layer.terms.length > 1 ? layer.terms.length : 0];
      yield () => this.small(canvas, 96, layer, map, "mean");
    }
  }
  original() {
    const ratio = this.page.size[0] / this.page.size[1], [width, height] = ratio > 1 ? [96 / ratio, 96] : [96, 96 * ratio];
    Object.assign(this.photo.style, { width: `${width}px`, height: `${height}px` });
    const context = sized(this.photo, width, height);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.page.image, 0, 0, width, height);
    const { layer, page } = this, side = page.column ? layer.source : layer.target;
    const nowhere = page.other !== null || (layer.queries.length && !page.column); // what gathers lies on no grid
    if (!nowhere) drawMark(context, width, height, { ...side, marker: page.marker }, layer.token(page.place, page.column) - side.prefix, { ring: 5, line: 1.2 });
  }
  small(canvas, side, layer, name, head) {
    const map = this.mapOf(layer, name, head), ratio = this.page.size[0] / this.page.size[1];
    const [width, height] = ratio > 1 ? [side / ratio, side] : [side, side * ratio];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = sized(canvas, width, height);
    if (!map) return;
    const near = map.on !== null && map.side.grid.join() === map.grid.join() && windowOf(map.values, map.grid, map.prefix, map.on);
    if (near && side < 60) {
      context.clearRect(0, 0, width, height);
      drawLoupe(context, width, height, map, { ...near, column: 0, row: 0 }, 0.96);
      return;
    }
    drawMap(context, width, height, { ...map, background: this.page.small });
    if (near) drawLoupe(context, width, height, map, near, 0.55);
    if (map.on !== null && side > 60) drawMark(context, width, height, { ...map.side, marker: map.marker }, map.on, { ring: 9, line: 1.1 });
  }
}

function headsShown(panel) {
  return panel.layer.headsOf(panel.shownMap);
}
