"use strict";
// A layer of a model: which token a place of the photograph is, and the map of weights for it.

class Layer {
  constructor(given, index, buffer) {
    const numbers = (reference) => new Numbers(reference, buffer);
    Object.assign(this, { index, name: given.name, label: given.label, stage: given.stage, residual: given.residual });
    this.measures = given.measures;
    this.rounding = given.rounding;
    this.source = given.source; // {grid, prefix, stride: pixels of the network's image along a token's sides}
    this.target = given.target;
    this.queries = given.queries; // names of what gathers where that lies on no grid
    this.terms = given.terms.map((term) => ({ name: term.name, weight: numbers(term.weight).plain(), form: formOf(term.form, numbers) }));
    this.beside = given.beside.map((term) => ({ name: term.name, weight: [1], form: formOf(term.form, numbers) }));
    this.heads = lcm(...this.terms.flatMap((term) => [term.form.heads, term.weight.length]));
    this.kept = new Map(); // rows of the forms at the last places that were asked for
  }
  // Names of the maps that there are: the sum is one of its own where it has several terms.
  get maps() {
    const names = [...this.terms, ...this.beside].map((term) => term.name);
    return this.terms.length > 1 ? [...names.slice(0, this.terms.length), "mixed", ...names.slice(this.terms.length)] : names;
  }
  parts(map) {
    const chosen = [...this.terms, ...this.beside].filter((term) => term.name === map);
    return chosen.length ? [{ weight: [1], form: chosen[0].form }] : this.terms;
  }
  headsOf(map) {
    return lcm(...this.parts(map).flatMap(({ weight, form }) => [weight.length, form.heads]));
  }
  // The token at a place (y, x), parts of the photograph's height and width, among those that gather or are gathered from.
  token(place, column) {
    const { grid, prefix, extent } = column ? this.source : this.target;
    const [row, across] = [0, 1].map((axis) => Math.min(grid[axis] - 1, Math.max(0, Math.floor((place[axis] / extent[axis]) * grid[axis]))));
    return prefix + row * grid[1] + across;
  }
  of(form, token, column) {
    const key = column ? "column" : "row";
    let kept = this.kept.get(form);
    if (!kept || kept.token !== token || kept.key !== key) this.kept.set(form, (kept = { token, key, row: form[key](token) }));
    return kept.row;
  }
  // Weights (N), not yet in times uniform: of a head, or of their mean; of |A| where its signs differ.
  weights(token, { map = "mixed", head = "mean", column = false } = {}) {
    const parts = this.parts(map).map(({ weight, form }) => ({ weight, row: this.of(form, token, column) }));
    const heads = this.headsOf(map), count = parts[0].row.count, found = new Float32Array(count);
    if (head !== "mean") {
      for (const part of parts) addHead(part, head, heads, found, 0);
      return found;
    }
    const signed = parts.some(({ weight, row }) => weight.some((each) => each < 0) || row.values.some((value) => value < 0));
    if (!signed || parts.length === 1) addMeans(parts, heads, found, signed);
    else addMeanSizes(parts, heads, found);
    return found;
  }
}

// Means over heads, part by part; of |.| of a single part with signs.
function addMeans(parts, heads, into, signed) {
  for (const { weight, row } of parts) {
    const length = row.targets ? row.targets.length : row.count;
    for (let m = 0; m < heads; m++) {
      const by = weight[Math.floor((m * weight.length) / heads)] / heads, begin = Math.floor((m * row.heads) / heads) * length;
      for (let e = 0; e < length; e++) {
        const at = row.targets ? row.targets[e] : e, value = by * row.values[begin + e];
        if (at >= 0) into[at] += signed ? Math.abs(value) : value;
      }
    }
  }
}

function addMeanSizes(parts, heads, into) {
  const everywhere = parts.some(({ row }) => !row.targets), own = new Float32Array(into.length);
  const touched = new Set(parts.flatMap(({ row }) => (row.targets ? [...row.targets] : [])).filter((at) => at >= 0));
  for (let m = 0; m < heads; m++) {
    for (const part of parts) addHead(part, m, heads, own, 0);
    if (everywhere) for (let at = 0; at < own.length; at++) into[at] += Math.abs(own[at]) / heads;
    else for (const at of touched) into[at] += Math.abs(own[at]) / heads;
    if (everywhere) own.fill(0);
    else for (const at of touched) own[at] = 0;
  }
}

function lcm(...numbers) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  return numbers.reduce((a, b) => (a * b) / divisor(a, b), 1);
}
