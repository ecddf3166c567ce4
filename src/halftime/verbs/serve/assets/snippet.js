// The request that the form makes, as somebody would write it: for a shell, and with OpenAI's client.

const OWN = ["steps", "seed", "guidance", "negative_prompt", "strength"]; // halftime's, in extra_body
const KEY = "HALFTIME_API_KEY";

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

/** A command line. */
export function curl(order, file, address, secret) {
  const lines = [`curl ${quoted(`${address}/v1/images/${file ? "edits" : "generations"}`)}`];
  if (secret) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  if (file) {
    lines.push(`-F ${quoted(`image=@${file}`)}`);
    for (const [name, value] of Object.entries(order)) lines.push(`--form-string ${quoted(`${name}=${value}`)}`);
  } else {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(order))}`);
  }
  return lines.join(" \\\n  ");
}

/** A program. JSON's strings and numbers are Python's, too. */
export function python(order, file, address, secret, model) {
  const own = Object.entries(order).filter(([name]) => OWN.includes(name));
  const usual = Object.entries(order).filter(([name]) => !OWN.includes(name) && name !== "model");
  const words = [`model=${JSON.stringify(model)}`, ...(file ? [`image=open(${JSON.stringify(file)}, "rb")`] : []),
    ...usual.map(([name, value]) => `${name}=${JSON.stringify(value)}`)];
  if (own.length) words.push(`extra_body={${own.map(([name, value]) => `"${name}": ${JSON.stringify(value)}`).join(", ")}}`);
  return [
    "import base64", ...(secret ? ["import os"] : []), "", "from openai import OpenAI", "",
    `client = OpenAI(base_url=${JSON.stringify(`${address}/v1`)}, api_key=${secret ? `os.environ["${KEY}"]` : '"unused"'})`,
    `answer = client.images.${file ? "edit" : "generate"}(`, ...words.map((word) => `    ${word},`), ")",
    "for picture in answer.data:",
    `    with open(f"halftime-{picture.seed}.${order.output_format ?? "png"}", "wb") as file:`,
    "        file.write(base64.b64decode(picture.b64_json))",
  ].join("\n");
}
