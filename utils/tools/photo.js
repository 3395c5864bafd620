// A photo, read and scaled as in training (utils/data/photos.py: read_rgb, letterbox).

const SHOWN = 576;  // pixels of the picture's longer side, for a screen with two a point

// One axis of the resize: Gaussian blur, then linear interpolation; for each output the first input and its weights.
function taps(length, count) {
  const factor = length / count, sigma = Math.max(0, (factor - 1) / 2), radius = Math.floor(4 * sigma + 0.5);
  let kernel = Array.from({ length: 2 * radius + 1 }, (_, i) => radius ? Math.exp(-0.5 * ((i - radius) / sigma) ** 2) : 1);
  const sum = kernel.reduce((a, b) => a + b);
  kernel = kernel.map(value => value / sum);
  return Array.from({ length: count }, (_, i) => {
    const position = (i + 0.5) * factor - 0.5, left = Math.floor(position), first = Math.max(0, left - radius);
    const weights = new Float32Array(Math.min(length - 1, left + 1 + radius) - first + 1);
    for (const [column, weight] of [[left, left + 1 - position], [left + 1, position - left]]) {
      if (column < 0 || column >= length) continue;
      kernel.forEach((value, k) => {
        const at = column + k - radius;
        if (at >= 0 && at < length) weights[at - first] += weight * value;
      });
    }
    return { first, weights };
  });
}

// A photo's opaque RGBA -> uint8 (size, size, 3): the longer side becomes `size`, centred on black.
export function letterbox({ data, width, height }, size) {
  let low = 255, high = 0;  // as the resize is clipped
  for (let i = 0; i < data.length; i++) {
    if (i % 4 === 3) continue;
    if (data[i] < low) low = data[i];
    if (data[i] > high) high = data[i];
  }
  const longer = Math.max(width, height);
  const [newWidth, newHeight] = [width, height].map(side => Math.max(1, Math.floor(size * side / longer)));
  const left = size / 2 - (newWidth >> 1), top = size / 2 - (newHeight >> 1), span = width * 4;
  const across = taps(width, newWidth), line = new Float32Array(span), out = new Uint8ClampedArray(size * size * 3);
  taps(height, newHeight).forEach(({ first, weights }, y) => {
    line.fill(0);
    weights.forEach((weight, k) => {
      for (let x = 0, from = (first + k) * span; x < span; x++) line[x] += weight * data[from + x];
    });
    across.forEach(({ first, weights }, x) => {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * line[(first + k) * 4 + c];
        out[((top + y) * size + left + x) * 3 + c] = Math.min(high, Math.max(low, sum));  // rounds, halves to even
      }
    });
  });
  return new Uint8Array(out.buffer);
}

// A JPEG without its EXIF segments: browsers turn a photo as they say, training may not.
async function withoutExif(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return blob;
  let at = 2, kept = 2;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) {  // up to the scan
    const end = at + 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
    if (bytes[at + 1] !== 0xe1) {
      bytes.copyWithin(kept, at, end);
      kept += end - at;
    }
    at = end;
  }
  bytes.copyWithin(kept, at);
  return new Blob([bytes.subarray(0, kept + bytes.length - at)]);  // one piece: Firefox's workers read no photo in several
}

// A canvas with the photo: colours as stored, alpha over white, turned by its EXIF if `exif`.
export async function read(blob, exif) {
  const bitmap = await createImageBitmap(exif ? blob : await withoutExif(blob), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

// The ImageData of a canvas of `read`.
export function pixelsOf(canvas) {
  const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  if (image.data[3] !== 255) throw new Error("no memory for a canvas");
  return image;
}

// A small JPEG of such a canvas, to be looked at.
export function picture(canvas) {
  const scale = Math.min(1, SHOWN / Math.max(canvas.width, canvas.height));
  const [width, height] = [canvas.width, canvas.height].map(side => Math.max(1, Math.round(side * scale)));
  const small = new OffscreenCanvas(width, height), context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, width, height);
  return small.convertToBlob({ type: "image/jpeg", quality: 0.85 });
}
