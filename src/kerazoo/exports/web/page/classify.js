// From an image to the network's answers. The browser decodes; resizing and scaling are inside of the model.

export const settings = await (await fetch("model.json")).json();
const ort = await import(new URL(settings.runtime, import.meta.url));
ort.env.logLevel = "error";
const session = await ort.InferenceSession.create(new URL("model.onnx", import.meta.url).href);

/** A Blob -> {pixels, height, width}: uint8 values, upright, with alpha blended with white. */
export async function decode(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options).catch(() => {
    throw new Error("it cannot be decoded");
  });
  const { width, height } = bitmap;
  const most = Math.min(Math.max(settings.always, settings.per_byte * blob.size), settings.most);
  if (width * height > most) {
    bitmap.close();
    throw new Error(`it has ${width} x ${height} pixels; at most ${most} are taken`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { pixels: channels(context.getImageData(0, 0, width, height).data), height, width };
}

/** Red, green, blue and alpha -> red, green and blue, or ITU-R 601-2 luma for a network with one channel. */
function channels(values) {
  const gray = settings.channels === 1;
  const pixels = new Uint8Array((values.length / 4) * settings.channels);
  for (let from = 0, to = 0; from < values.length; from += 4) {
    const [red, green, blue] = [values[from], values[from + 1], values[from + 2]];
    if (gray) {
      pixels[to++] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
    } else {
      pixels[to++] = red;
      pixels[to++] = green;
      pixels[to++] = blue;
    }
  }
  return pixels;
}

/** `count` images of one size -> the answers, one image after another. */
export async function answer({ pixels, height, width, count = 1 }) {
  const tensor = new ort.Tensor("uint8", pixels, [count, height, width, settings.channels]);
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  return outputs[session.outputNames[0]].data;
}
