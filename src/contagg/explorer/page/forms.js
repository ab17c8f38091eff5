"use strict";
// Rows and columns of A from the small tensors that the file carries: the same forms as contagg/affinity/forms.py.
// A row is {heads, count, values, targets}: of all heads and places one after the other (heads x count), or, where
// `targets` is given, (heads x targets.length) at those places alone, with -1 for nowhere.


class Band {
  constructor(given, numbers) {
    this.heads = given.heads;
    this.kernel = numbers(given.kernel);
    this.each = this.kernel.shape.length === 4; // a kernel a position
    this.size = this.kernel.shape.slice(-2);
    this.grid = given.grid;
    this.dilation = given.dilation ?? 1;
    this.padding = given.padding ?? "zeros";
    this.prefix = given.prefix ?? 0;
    this.count = given.shape[1];
    this.entries = this.size[0] * this.size[1];
  }
  within(index, length) {
    if (this.padding === "circular") return ((index % length) + length) % length;
    if (this.padding === "replicate") return Math.min(Math.max(index, 0), length - 1);
    if (this.padding === "reflect") {
      const turn = Math.max(1, 2 * length - 2), around = ((index % turn) + turn) % turn;
      return Math.max(0, length - 1 - Math.abs(around - (length - 1)));
    }
    return index >= 0 && index < length ? index : -1;
  }
  // Where entry `e` of the kernel of a place lies, -1 for nowhere.
  target(place, e) {
    const at = place - this.prefix, [height, width] = this.grid;
    if (at < 0) return -1;
    const down = Math.floor(e / this.size[1]) - Math.floor(this.size[0] / 2);
    const across = (e % this.size[1]) - Math.floor(this.size[1] / 2);
    const row = this.within(Math.floor(at / width) + this.dilation * down, height);
    const column = this.within((at % width) + this.dilation * across, width);
    return row < 0 || column < 0 ? -1 : this.prefix + row * width + column;
  }
  weights(place, m) {
    const at = place - this.prefix;
    const begin = ((this.each ? at * this.heads : 0) + m) * this.entries;
    const found = new Float32Array(this.entries);
    for (let e = 0; e < this.entries; e++) found[e] = this.kernel.at(begin + e);
    if (this.padding !== "mean") return found;
    let whole = 0, held = 0;
    for (let e = 0; e < this.entries; e++) {
      whole += Math.abs(found[e]);
      if (this.target(place, e) >= 0) held += Math.abs(found[e]);
    }
    return found.map((value) => (held ? (value * whole) / held : 0));
  }
  row(place) {
    const targets = Int32Array.from({ length: this.entries }, (_, e) => this.target(place, e));
    const values = new Float32Array(this.heads * this.entries);
    if (place >= this.prefix) for (let m = 0; m < this.heads; m++) values.set(this.weights(place, m), m * this.entries);
    this.merge(targets, values);
    return { heads: this.heads, count: this.count, values, targets };
  }
  // Entries that the padding puts at one place become the first of them.
  merge(targets, values) {
    const first = new Map();
    targets.forEach((target, e) => {
      if (target < 0 || !first.has(target)) return void first.set(target, e);
      for (let m = 0; m < this.heads; m++) {
        values[m * this.entries + first.get(target)] += values[m * this.entries + e];
        values[m * this.entries + e] = 0;
      }
      targets[e] = -1;
    });
  }
  column(place) {
    const [height, width] = this.grid, found = [];
    const reach = this.size.map((side) => this.dilation * (Math.floor(side / 2) + 1));
    const near = this.padding === "zeros" || this.padding === "mean";
    const row = Math.floor((place - this.prefix) / width), column = (place - this.prefix) % width;
    const [top, left] = near ? [Math.max(0, row - reach[0]), Math.max(0, column - reach[1])] : [0, 0];
    const [bottom, right] = near ? [Math.min(height, row + reach[0] + 1), Math.min(width, column + reach[1] + 1)] : [height, width];
    if (place >= this.prefix)
      for (let y = top; y < bottom; y++)
        for (let x = left; x < right; x++)
          for (let e = 0, last = -1; e < this.entries; e++) {
            const from = this.prefix + y * width + x;
            if (this.target(from, e) !== place) continue;
            if (last === from) found[found.length - 1][1].push(e);
            else found.push([from, [e]]);
            last = from;
          }
    const values = new Float32Array(this.heads * found.length);
    found.forEach(([from, entries], index) => {
      for (let m = 0; m < this.heads; m++) {
        const weights = this.weights(from, m);
        for (const e of entries) values[m * found.length + index] += weights[e];
      }
    });
    return { heads: this.heads, count: this.count, values, targets: Int32Array.from(found, ([from]) => from) };
  }
}

class Dense {
  constructor(given, numbers) {
    this.heads = given.heads;
    [this.targets, this.sources] = given.shape;
    this.matrix = numbers(given.matrix);
  }
  row(place) {
    const read = (m, j) => this.matrix.at((m * this.targets + place) * this.sources + j);
    return filled(this.heads, this.sources, read);
  }
  column(place) {
    const read = (m, i) => this.matrix.at((m * this.targets + i) * this.sources + place);
    return filled(this.heads, this.targets, read);
  }
}

class Factors {
  constructor(given, numbers) {
    this.heads = given.heads;
    [this.targets, this.sources] = given.shape;
    this.left = numbers(given.left);
    this.right = numbers(given.right);
  }
  entry(m, i, j) {
    const width = this.left.width;
    return this.left.dot((m * this.targets + i) * width, this.right, (m * this.sources + j) * width);
  }
  row(place) {
    return filled(this.heads, this.sources, (m, j) => this.entry(m, place, j));
  }
  column(place) {
    return filled(this.heads, this.targets, (m, i) => this.entry(m, i, place));
  }
}

class Sparse {
  constructor(given, numbers) {
    this.heads = given.heads;
    [this.rows, this.places] = given.shape;
    this.weights = numbers(given.weights);
    this.where = numbers(given.targets);
    this.entries = this.weights.width;
    this.shared = this.where.shape[0] === 1;
  }
  target(m, i, e) {
    return this.where.data[((this.shared ? 0 : m) * this.rows + i) * this.entries + e];
  }
  weight(m, i, e) {
    return this.weights.at((m * this.rows + i) * this.entries + e);
  }
  row(place) {
    const values = new Float32Array(this.heads * this.places);
    for (let m = 0; m < this.heads; m++)
      for (let e = 0; e < this.entries; e++) {
        const target = this.target(m, place, e);
        if (target >= 0) values[m * this.places + target] += this.weight(m, place, e);
      }
    return { heads: this.heads, count: this.places, values, targets: null };
  }
  column(place) {
    const values = new Float32Array(this.heads * this.rows);
    for (let m = 0; m < this.heads; m++)
      for (let i = 0; i < this.rows; i++)
        for (let e = 0; e < this.entries; e++)
          if (this.target(m, i, e) === place) values[m * this.rows + i] += this.weight(m, i, e);
    return { heads: this.heads, count: this.rows, values, targets: null };
  }
}

class Product {
  constructor(given, numbers) {
    this.heads = given.heads;
    [this.targets, this.sources] = given.shape;
    this.second = formOf(given.second, numbers);
    this.first = formOf(given.first, numbers);
  }
  row(place) {
    return composed(this.heads, this.sources, this.second.row(place), (between) => this.first.row(between));
  }
  column(place) {
    return composed(this.heads, this.targets, this.first.column(place), (between) => this.second.column(between));
  }
}

class Sum {
  constructor(given, numbers) {
    this.heads = given.heads;
    this.parts = given.parts.map(([weight, form]) => ({ weight: numbers(weight).plain(), form: formOf(form, numbers) }));
  }
  row(place) {
    return summed(this.heads, this.parts.map(({ weight, form }) => ({ weight, row: form.row(place) })));
  }
  column(place) {
    return summed(this.heads, this.parts.map(({ weight, form }) => ({ weight, row: form.column(place) })));
  }
}

const FORMS = { scores: Scores, band: Band, dense: Dense, factors: Factors, sparse: Sparse, product: Product, sum: Sum };

function formOf(given, numbers) {
  return new FORMS[given.kind](given, numbers);
}

// The weights of all parts added, (heads x count); head m of M stands for heads m L / M, ... of L.
function summed(heads, parts) {
  const count = parts[0].row.count, values = new Float32Array(heads * count);
  for (let m = 0; m < heads; m++) for (const part of parts) addHead(part, m, heads, values, m * count);
  return { heads, count, values, targets: null };
}

function addHead({ weight, row }, m, heads, into, begin) {
  const by = weight[Math.floor((m * weight.length) / heads)];
  const own = Math.floor((m * row.heads) / heads);
  if (row.targets) {
    const length = row.targets.length;
    for (let e = 0; e < length; e++) if (row.targets[e] >= 0) into[begin + row.targets[e]] += by * row.values[own * length + e];
  } else for (let j = 0; j < row.count; j++) into[begin + j] += by * row.values[own * row.count + j];
}

function composed(heads, count, outer, inner) {
  const one = [1], whole = summed(outer.heads, [{ weight: one, row: outer }]);
  const values = new Float32Array(heads * count);
  for (let between = 0; between < whole.count; between++) {
    const weights = Float32Array.from({ length: heads }, (_, m) => whole.values[Math.floor((m * whole.heads) / heads) * whole.count + between]);
    if (weights.every((weight) => weight === 0)) continue;
    const row = inner(between);
    for (let m = 0; m < heads; m++) addHead({ weight: [weights[m]], row }, m, heads, values, m * count);
  }
  return { heads, count, values, targets: null };
}

function filled(heads, count, read) {
  const values = new Float32Array(heads * count);
  for (let m = 0; m < heads; m++) for (let j = 0; j < count; j++) values[m * count + j] = read(m, j);
  return { heads, count, values, targets: null };
}
