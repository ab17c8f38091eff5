"use strict";
// Maps of weights over the photograph, on the scale of contagg/inspect/overlay.py: times uniform, spaced by its square
// root, as opaque as it is strong, so that the photograph stays visible.

const LEAST_PEAK = 9, OPACITY = 0.8;

// N times the share of all sizes, signs kept; `values` (N) hold prefix tokens first.
function timesUniform(values) {
  let total = 0;
  for (const value of values) total += Math.abs(value);
  return total ? values.map((value) => (value * values.length) / total) : values;
}

class Scale {
  constructor(values, palettes) {
    this.peak = LEAST_PEAK;
    this.signed = false;
    for (const value of values) {
      if (Math.abs(value) > this.peak) this.peak = Math.abs(value);
      if (value < 0) this.signed = true;
    }
    this.colours = this.signed ? palettes.signed : palettes.unsigned;
  }
  // Where a weight lies between the ends of the scale, 0 to 1.
  place(value) {
    const root = Math.sqrt(Math.min(1, Math.abs(value) / this.peak));
    return this.signed ? (1 + Math.sign(value) * root) / 2 : root;
  }
  paint(value, pixels, at) {
    const place = this.place(value), colour = this.colours[Math.round(place * (this.colours.length - 1))];
    const strong = this.signed ? Math.abs(2 * place - 1) : place;
    pixels[at] = colour[0];
    pixels[at + 1] = colour[1];
    pixels[at + 2] = colour[2];
    pixels[at + 3] = Math.round(255 * OPACITY * strong ** 1.5);
  }
}

function picture(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// The photograph in pale grey of full contrast, on which weights are laid.
function pale(image) {
  const canvas = picture(image.naturalWidth, image.naturalHeight), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height), data = pixels.data;
  const greys = new Uint8Array(data.length / 4);
  for (let at = 0; at < greys.length; at++) greys[at] = 0.299 * data[4 * at] + 0.587 * data[4 * at + 1] + 0.114 * data[4 * at + 2];
  const sorted = greys.slice().sort(), [dark, bright] = [0.01, 0.99].map((part) => sorted[Math.floor(part * (sorted.length - 1))]);
  greys.forEach((grey, at) => {
    const share = Math.min(1, Math.max(0, (grey - dark) / Math.max(1, bright - dark)));
    data.fill(115 + 140 * share, 4 * at, 4 * at + 3);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// Weights of a grid (rows x columns, after `prefix` others) as a picture of one pixel a token.
function painted(values, grid, prefix, scale) {
  const canvas = picture(grid[1], grid[0]), context = canvas.getContext("2d");
  const pixels = context.createImageData(grid[1], grid[0]);
  for (let token = 0; token < grid[0] * grid[1]; token++) scale.paint(values[prefix + token], pixels.data, 4 * token);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The window around a token that holds all weight, {top, left, rows, columns}; null where that is no small part.
function windowOf(values, grid, prefix, token) {
  const [height, width] = grid, row = Math.floor(token / width), column = token % width;
  let reach = 0;
  for (let at = 0; at < height * width; at++)
    if (values[prefix + at]) reach = Math.max(reach, Math.abs(Math.floor(at / width) - row), Math.abs((at % width) - column));
  if (2 * reach + 1 > Math.min(height, width) / 3) return null;
  return { top: row - reach, left: column - reach, size: 2 * reach + 1, row, column };
}

// A canvas of the size that it is shown in, in the screen's own pixels.
function sized(canvas, width, height) {
  const density = Math.min(2, window.devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * density)) canvas.width = Math.round(width * density);
  if (canvas.height !== Math.round(height * density)) canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.imageSmoothingEnabled = false;
  return context;
}

// A map over the photograph: {background, values, grid, prefix, scale, extent}; `extent` is the part of the photograph
// that the grid covers, more than 1 where the last patches are partly filled up.
function drawMap(context, width, height, map) {
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = true;
  context.drawImage(map.background, 0, 0, width, height);
  context.imageSmoothingEnabled = false;
  const overlay = painted(map.values, map.grid, map.prefix, map.scale);
  context.drawImage(overlay, 0, 0, width * map.extent[1], height * map.extent[0]);
}

// The small window that holds all weight, large, in the corner that is farthest from it.
function drawLoupe(context, width, height, map, near, share) {
  const side = share * Math.min(width, height), edge = 0.02 * width;
  const left = near.column < map.grid[1] / 2 ? width - side - edge : edge;
  const top = near.row < map.grid[0] / 2 ? height - side - edge : edge;
  context.fillStyle = "#f4f4f4";
  context.fillRect(left, top, side, side);
  const cell = side / near.size;
  for (let y = 0; y < near.size; y++)
    for (let x = 0; x < near.size; x++) {
      const row = near.top + y, column = near.left + x;
      const inside = row >= 0 && column >= 0 && row < map.grid[0] && column < map.grid[1];
      const value = inside ? map.values[map.prefix + row * map.grid[1] + column] : 0;
      const colour = new Uint8ClampedArray(4);
      map.scale.paint(value, colour, 0);
      context.fillStyle = inside ? `rgba(${colour[0]},${colour[1]},${colour[2]},${colour[3] / 255})` : "#c9c9c9";
      context.fillRect(left + x * cell, top + y * cell, cell + 0.5, cell + 0.5);
      if (value < 0 && cell > 9) {
        context.fillStyle = value < -0.4 * map.scale.peak ? "#fff" : "#555";
        context.fillRect(left + (x + 0.35) * cell, top + (y + 0.5) * cell - 0.5, 0.3 * cell, 1.2);
      }
    }
  context.strokeStyle = "#333";
  context.lineWidth = 1;
  context.strokeRect(left, top, side, side);
}

// Frames a token; one that is too small for a frame is ringed.
function drawMark(context, width, height, map, token, { ring = 8, line = 1.8 } = {}) {
  const cell = [(height * map.extent[0]) / map.grid[0], (width * map.extent[1]) / map.grid[1]];
  const top = Math.floor(token / map.grid[1]) * cell[0], left = (token % map.grid[1]) * cell[1];
  for (const [colour, wide] of [["#fff", 2 * line], [map.marker, line]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.beginPath();
    if (Math.min(...cell) < 8) context.arc(left + cell[1] / 2, top + cell[0] / 2, ring, 0, 2 * Math.PI);
    else context.rect(left, top, cell[1], cell[0]);
    context.stroke();
  }
}
