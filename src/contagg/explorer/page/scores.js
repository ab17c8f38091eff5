"use strict";
// Tensors that the file carries, and attention from them: softmax(scale q k + bias) within groups.

const STEPS = 127;
const TYPES = { int8: Int8Array, int32: Int32Array, float32: Float32Array };

async function unpackStore(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// A tensor: whole numbers times a scale for each vector of the last dimension, or plain numbers without one.
class Numbers {
  constructor(reference, buffer) {
    this.shape = reference.shape;
    const length = this.shape.reduce((product, side) => product * side, 1);
    this.data = new TYPES[reference.type](buffer, reference.at, length);
    this.width = this.shape.length ? this.shape[this.shape.length - 1] : 1;
    this.scale = reference.scale ? new Numbers(reference.scale, buffer).data : null;
  }
  at(index) {
    const value = this.data[index];
    if (!this.scale) return value;
    return value < -STEPS ? -Infinity : value * this.scale[Math.floor(index / this.width)];
  }
  plain() {
    return Float32Array.from({ length: this.data.length }, (_, index) => this.at(index));
  }
  // The product of two vectors of `width` numbers, given where they begin.
  dot(begin, other, otherBegin) {
    const a = this.data, b = other.data, width = this.width;
    let sum = 0;
    for (let c = 0; c < width; c++) sum += a[begin + c] * b[otherBegin + c];
    if (this.scale) sum *= this.scale[begin / width];
    if (other.scale) sum *= other.scale[otherBegin / other.width];
    return sum;
  }
  // A function of an index (g, m, i, j) into what this is broadcast to.
  broadcast() {
    const shape = [1, 1, 1, 1, ...this.shape].slice(-4);
    const stride = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1].map((step, axis) => (shape[axis] > 1 ? step : 0));
    return (g, m, i, j) => this.at(g * stride[0] + m * stride[1] + i * stride[2] + j * stride[3]);
  }
}

class Scores {
  constructor(given, numbers) {
    this.heads = given.heads;
    [this.targets, this.sources] = given.shape;
    this.query = numbers(given.query);
    this.key = numbers(given.key);
    this.scale = given.scale ?? 1;
    this.bias = (given.bias || []).map((each) => numbers(each).broadcast());
    this.sink = given.sink && numbers(given.sink).broadcast();
    this.normaliser = numbers(given.normaliser).data; // log of the sum of a query's exponentials, (G, M, n)
    [this.groups, , this.queries] = this.query.shape;
    this.keys = this.key.shape[2];
    this.queryPlace = numbers(given.query_place).data;
    this.keyPlace = given.key_place ? numbers(given.key_place).data : null;
    this.keyOfPlace = given.key_of_place ? numbers(given.key_of_place).data : null;
    this.querySlots = slots(this.queryPlace, this.targets);
    if (this.keyPlace) this.keySlots = slots(this.keyPlace, this.sources);
    else this.held = counts(this.keyOfPlace, this.groups * this.keys);
  }
  score(g, m, i, j) {
    const group = g * this.heads + m, width = this.query.width;
    let score = this.scale * this.query.dot((group * this.queries + i) * width, this.key, (group * this.keys + j) * width);
    for (const bias of this.bias) score += bias(g, m, i, j);
    return score;
  }
  share(g, m, i, j) {
    const whole = this.normaliser[(g * this.heads + m) * this.queries + i];
    return whole === -Infinity ? 0 : Math.exp(this.score(g, m, i, j) - whole);
  }
  row(place) {
    const values = new Float32Array(this.heads * this.sources);
    for (const slot of this.querySlots(place)) {
      const g = Math.floor(slot / this.queries), i = slot % this.queries;
      for (let m = 0; m < this.heads; m++) {
        const shares = new Float32Array(this.keys);
        for (let j = 0; j < this.keys; j++) shares[j] = this.share(g, m, i, j);
        this.lay(shares, g, values, m * this.sources);
      }
    }
    return { heads: this.heads, count: this.sources, values, targets: null };
  }
  lay(shares, g, values, begin) {
    if (this.keyPlace) {
      for (let j = 0; j < this.keys; j++) {
        const place = this.keyPlace[g * this.keys + j];
        if (place >= 0) values[begin + place] += shares[j];
      }
      return;
    }
    for (let place = 0; place < this.sources; place++) {
      const key = this.keyOfPlace[place], j = key - g * this.keys;
      if (key >= 0 && j >= 0 && j < this.keys) values[begin + place] += shares[j] / this.held[key];
    }
  }
  column(place) {
    const values = new Float32Array(this.heads * this.targets);
    const key = this.keyOfPlace ? this.keyOfPlace[place] : -1;
    for (const slot of this.keyPlace ? this.keySlots(place) : key < 0 ? [] : [key]) {
      const g = Math.floor(slot / this.keys), j = slot % this.keys;
      for (let i = 0; i < this.queries; i++) {
        const target = this.queryPlace[g * this.queries + i];
        if (target < 0) continue;
        for (let m = 0; m < this.heads; m++)
          values[m * this.targets + target] += this.share(g, m, i, j) / (this.keyPlace ? 1 : this.held[key]);
      }
    }
    return { heads: this.heads, count: this.targets, values, targets: null };
  }
}

// For each place, where in a list of places it stands; most stand there once.
function slots(places, count) {
  const first = new Int32Array(count).fill(-1), next = new Int32Array(places.length).fill(-1);
  for (let slot = places.length - 1; slot >= 0; slot--)
    if (places[slot] >= 0) {
      next[slot] = first[places[slot]];
      first[places[slot]] = slot;
    }
  return (place) => {
    const found = [];
    for (let slot = first[place]; slot >= 0; slot = next[slot]) found.push(slot);
    return found;
  };
}

function counts(keys, length) {
  const found = new Int32Array(length);
  for (const key of keys) if (key >= 0) found[key]++;
  return found;
}
