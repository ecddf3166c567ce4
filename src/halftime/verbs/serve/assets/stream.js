// One drawing request: posts it and yields what the server says, until the picture is whole.

/** With a file it is an edit of that picture.
 * @returns {AsyncGenerator<{kind: string, [field: string]: any}>} */
export async function* draw(order, file, key, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const whole = { ...order, stream: true, partial_images: 3 };
  const answer = await fetch(`/v1/images/${file ? "edits" : "generations"}`, { method: "POST", signal, ...(file
    ? { headers, body: form(whole, file) }
    : { headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(whole) }) });
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw Object.assign(new Error(told?.error?.message ?? `The server answered ${answer.status}.`), {
      status: answer.status, wait: Number(answer.headers.get("retry-after")) || 0,
    });
  }
  for await (const block of blocks(answer.body)) {
    const said = parsed(block);
    if (said) yield said;
  }
}

function form(order, file) {
  const data = new FormData();
  for (const [name, value] of Object.entries(order)) data.append(name, value);
  data.append("image", file);
  return data;
}

// Server-sent events are separated by an empty line.
async function* blocks(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) yield text.slice(0, end);
  }
}

function parsed(block) {
  if (block.startsWith(": started")) return { kind: "started" };
  const line = block.split("\n").find((each) => each.startsWith("data: "));
  if (!line) return null;
  const data = JSON.parse(line.slice(6));
  if (data.error) throw new Error(data.error.message);
  return { ...data, kind: data.type.split(".")[1] };
}
