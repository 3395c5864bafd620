// Photos in, probabilities out. It runs beside the page, which stays free for its visitor.

import { letterbox, picture, pixelsOf, read } from "./photo.js";

let network, settings;

// One message, one answer: first the settings, { exif, size }; then photos, { blob }.
onmessage = async ({ data }) => {
  try {
    postMessage(await (data.blob ? classify(data.blob) : load(data)));
  } catch (error) {
    console.error(error);
    postMessage({ error: String(error) });
  }
};

async function load(given) {
  settings = given;
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
  if (!crossOriginIsolated) ort.env.wasm.numThreads = 1;
  const file = await fetch("student.onnx", { cache: "no-cache" });  // a page made anew has another network
  if (!file.ok) throw new Error(`student.onnx: ${file.status}`);
  const session = await ort.InferenceSession.create(await file.arrayBuffer(), { executionProviders: ["wasm"] });
  network = async pixels => {
    const shape = [1, settings.size, settings.size, 3];
    const results = await session.run({ pixels: new ort.Tensor("uint8", pixels, shape) });
    return session.outputNames.map(name => results[name].data);  // in the attributes' order
  };
  return {};
}

async function classify(blob) {
  const begin = performance.now();
  let canvas, pixels, shown;
  try {
    canvas = await read(blob, settings.exif);
    pixels = letterbox(pixelsOf(canvas), settings.size);
    shown = await picture(canvas);
  } catch (error) {
    console.error(error);
    return { unreadable: true };
  } finally {
    if (canvas) canvas.width = canvas.height = 0;  // Safari keeps its memory, and once it has none left the next stays empty
  }
  const scaled = performance.now(), probabilities = await network(pixels);
  return { shown, probabilities, reading: scaled - begin, thinking: performance.now() - scaled };
}
