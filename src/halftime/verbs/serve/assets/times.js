// The stages of one request as a bar and a list; both come from the numbers in the server's answer.

const NAMES = {
  receive: "the request", upload: "reading the picture", queue: "in the queue", encode_prompt: "text encoders", encode_image: "image encoder", denoise: "denoising",
  vae_decode: "VAE decode", postprocess: "post-processing", file: "writing the file", other: "everything else",
};

export const seconds = (value) =>
  value >= 9.995 ? `${value.toFixed(1)} s` : value >= 0.9995 ? `${value.toFixed(2)} s`
    : value >= 0.01 ? `${Math.round(value * 1000)} ms` : `${(value * 1000).toFixed(1)} ms`;

/** usage.halftime -> [stage, seconds], which add up to the whole request; what has no name is in the last. */
export function parts(timing) {
  const [picture] = timing.pictures;
  const told = {
    receive: timing.receive_seconds, upload: timing.upload_seconds, queue: picture.queue_seconds,
    ...picture.stages, file: timing.encode_seconds,
  };
  const rows = Object.entries(told)
    .filter(([stage, value]) => stage in NAMES && stage !== "other" && (value > 0 || stage === "queue"));
  const rest = timing.seconds - rows.reduce((sum, [, value]) => sum + value, 0);
  return [...rows, ["other", Math.max(0, rest)]];
}

export function show(timing) {
  const rows = parts(timing);
  document.getElementById("times").hidden = false;
  document.getElementById("total").textContent = seconds(timing.seconds);
  document.getElementById("bar").replaceChildren(...rows.map(([stage, value]) => {
    const piece = coloured("i", stage);
    piece.style.flexGrow = 1000 * value / timing.seconds; // below a sum of 1, flex leaves a gap
    piece.title = `${NAMES[stage]}: ${seconds(value)}`;
    return piece;
  }));
  document.getElementById("legend").replaceChildren(...rows.map(([stage, value]) => {
    const item = document.createElement("li");
    item.append(coloured("i", stage), text("b", NAMES[stage]), text("span", seconds(value)),
      text("em", `${(100 * value / timing.seconds).toFixed(value / timing.seconds < 0.0995 ? 1 : 0)} %`));
    return item;
  }));
}

function coloured(tag, stage) {
  const made = document.createElement(tag);
  made.className = `s-${stage}`;
  return made;
}

function text(tag, content) {
  const made = document.createElement(tag);
  made.textContent = content;
  return made;
}
