// The official npm client against a server: node clients.mjs FOLDER_WITH_NODE_MODULES ADDRESS PICTURE
// Prints a line of JSON a case: {"case": ..., "right": true or false, "got": ...}.

import fs from "node:fs";
import { createRequire } from "node:module";

const [folder, address, picture] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { OpenAI, toFile } = require("openai");
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "any", maxRetries: 0 });
const PNG = "89504e47";
const head = (base64) => Buffer.from(base64, "base64").subarray(0, 4).toString("hex");
const about = { model: "emoji-xl", prompt: "a flat icon of a kite" };

const cases = {
  "models.list": async () => {
    const names = (await client.models.list()).data.map((model) => model.id);
    return [names.includes("emoji-xl"), names];
  },
  "images.generate": async () => {
    const answer = await client.images.generate({ ...about, n: 2, seed: 7 });
    const seeds = answer.data.map((one) => one.seed);
    return [answer.data.every((one) => head(one.b64_json) === PNG) && `${seeds}` === "7,8", seeds];
  },
  "images.generate, the same seed": async () => {
    const [first, second] = [await client.images.generate({ ...about, seed: 7 }), await client.images.generate({ ...about, seed: 7 })];
    return [first.data[0].b64_json === second.data[0].b64_json, "two pictures"];
  },
  "images.generate, stream": async () => {
    const kinds = [];
    const stream = await client.images.generate({ ...about, stream: true, partial_images: 2 });
    for await (const event of stream) kinds.push(event.type);
    return [kinds.at(-1) === "image_generation.completed" && kinds.length > 1, kinds];
  },
  "images.generate, url": async () => {
    const answer = await client.images.generate({ ...about, response_format: "url" });
    const file = Buffer.from(await (await fetch(answer.data[0].url)).arrayBuffer());
    return [file.subarray(0, 4).toString("hex") === PNG, `${file.length} bytes`];
  },
  "images.edit": async () => {
    const image = await toFile(fs.createReadStream(picture), "picture.png", { type: "image/png" });
    const answer = await client.images.edit({ ...about, image, strength: 0.8 });
    return [head(answer.data[0].b64_json) === PNG, answer.size];
  },
  "another model": async () => {
    const error = await client.images.generate({ ...about, model: "dall-e-3" }).catch((raised) => raised);
    return [error instanceof OpenAI.NotFoundError && error.code === "model_not_found", error.code];
  },
  "a size that is not offered": async () => {
    const error = await client.images.generate({ ...about, size: "1024x1024" }).catch((raised) => raised);
    return [error instanceof OpenAI.BadRequestError && error.param === "size", error.param];
  },
};

for (const [name, run] of Object.entries(cases)) {
  let row;
  try {
    const [right, got] = await run();
    row = { case: name, right, got };
  } catch (error) {
    row = { case: name, right: false, got: String(error) };
  }
  console.log(JSON.stringify(row));
}
