"use strict";
// Below the picture: through the network, the layers in numbers, and what cannot be shown.

const MEASURES = [
  ["distance", "distance", "From a place to what it gathers from, as a part of the grid's longer side"],
  ["within3", "in 3 × 3", "Share that lies within the 3 × 3 tokens around a place"],
  ["entropy", "entropy", "0: one token; 1: all tokens alike"],
  ["rank", "rank", "Effective rank, as a part of the rows looked at"],
  ["toeplitz", "Toeplitz", "Part that is the same at all places, by the offset alone"],
  ["residual", "residual", "Share of a token's own in what the layer hands on, by lengths of vectors"],
];
const SINKS = "Places that all others gather from at least ten times as much as from the mean one; a click shows who";

function numbersTable(panel) {
  const head = element("tr", {}, element("th", { scope: "col" }, "layer"), ...MEASURES.map(([, name, told]) => element("th", { scope: "col", title: told }, name)), element("th", { scope: "col", title: SINKS }, "sinks"));
  const body = element("tbody"), told = [...MEASURES.map(([, name, text]) => [name, text]), ["sinks", SINKS]];
  const legend = element("dl", { class: "told" }, ...told.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
  panel.lines = panel.layers.map((layer) => {
    const cells = MEASURES.map(([key]) => {
      const value = key === "residual" ? layer.residual : layer.measures[key];
      const cell = element("td", {}, value === null ? "–" : value.toFixed(2));
      if (value !== null) cell.style.setProperty("--share", `${100 * Math.min(1, Math.max(0, value))}%`);
      return cell;
    });
    const sinks = layer.measures.sinks.map(([row, column, times]) => {
      const { grid, extent } = layer.source;
      const place = [((row + 0.5) * extent[0]) / grid[0], ((column + 0.5) * extent[1]) / grid[1]];
      return element("button", { type: "button", class: "sink", title: "show what gathers from it", onclick: () => panel.page.visit(panel, layer.index, place) }, `(${row}, ${column}) ${Math.round(times)} ×`);
    });
    if (layer.source.prefix) sinks.unshift(element("span", { class: "register" }, `${percent(layer.measures.registers)} on tokens before the grid`));
    const name = element("button", { type: "button", onclick: () => panel.choose(layer.index) }, layer.label);
    const line = element("tr", {}, element("th", { scope: "row", title: layer.name }, name), ...cells, element("td", { class: "sinks" }, ...(sinks.length ? sinks : ["none"])));
    body.append(line);
    return line;
  });
  return element("details", { open: true }, element("summary", {}, "The layers in numbers"), element("div", { class: "scroll" }, element("table", { class: "numbers" }, element("thead", {}, head), body)), legend);
}

function unshownList(model) {
  if (!model.unshown.length) return "";
  const lines = model.unshown.map(({ name, reason }) => element("li", {}, element("code", {}, name), `: ${reason}`));
  return element("details", { open: true }, element("summary", {}, `What cannot be shown (${model.unshown.length})`), element("ul", {}, ...lines));
}

// The composed field and the true one of the place that is nearest to the cursor.
class Fields {
  constructor(panel) {
    this.panel = panel;
    this.fields = panel.model.fields;
    this.canvases = ["Composed of the layers' A", "True, by one backward pass"].map((name) => ({ name, canvas: element("canvas", { role: "img", "aria-label": name }) }));
    this.agreement = element("p", { class: "reading" });
    const figures = this.canvases.map(({ name, canvas }) => element("figure", {}, canvas, element("figcaption", {}, name)));
    const mean = this.fields.reduce((sum, field) => sum + field.agreement, 0) / (this.fields.length || 1);
    this.summary = element("summary", {}, `Through the network, to the pixels: ${percent(mean)} in common over ${this.fields.length} ${this.fields.length === 1 ? "place" : "places"}`);
    this.section = this.fields.length ? element("details", { open: true, ontoggle: () => this.draw() }, this.summary, element("div", { class: "fields" }, ...figures, this.agreement)) : "";
  }
  nearest(place) {
    const distance = ({ row, column, grid }) => Math.hypot((row + 0.5) / grid[0] - place[0], (column + 0.5) / grid[1] - place[1]);
    return this.fields.reduce((best, field) => (distance(field) < distance(best) ? field : best));
  }
  draw() {
    if (!this.fields.length || !this.section.open) return;
    const { page } = this.panel, field = this.nearest(page.place);
    if (!field.maps) field.maps = [field.composed, field.true].map((reference) => new Numbers(reference, this.panel.model.buffer));
    this.canvases.forEach(({ canvas }, index) => {
      const numbers = field.maps[index], values = timesUniform(numbers.plain());
      const width = canvas.clientWidth || 260, height = (width * page.size[0]) / page.size[1];
      canvas.style.height = `${height}px`;
      const context = sized(canvas, width, height), scale = new Scale(values, page.palettes);
      drawMap(context, width, height, { background: page.pale, values, grid: numbers.shape, prefix: 0, extent: [1, 1], scale });
      drawMark(context, width, height, { grid: field.grid, extent: field.extent, marker: page.marker }, field.row * field.grid[1] + field.column);
    });
    this.agreement.textContent = `Of place (${field.row}, ${field.column}) of ${field.grid[0]} × ${field.grid[1]} at the network's end, both have ${percent(field.agreement)} in common. The composed field follows each layer's A and its residual; norms, channels and feed-forwards are not in it.`;
  }
}
