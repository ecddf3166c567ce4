"""Draw with a running `halftime serve` by the official openai client, and keep each preview as it
comes.

halftime serve &
python examples/serve_with_previews.py "a flat icon of a kite"
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI


def main(
    prompt: str = "a flat icon of a kite", address: str = "http://127.0.0.1:8000", folder: str = "."
) -> None:
    client = OpenAI(base_url=f"{address}/v1", api_key="unused")
    model = client.models.list().data[0].id
    for event in client.images.generate(model=model, prompt=prompt, stream=True, partial_images=3):
        preview = event.type.endswith("partial_image")
        path = Path(folder) / (
            f"preview-{event.partial_image_index}.png" if preview else "final.png"
        )
        path.write_bytes(base64.b64decode(event.b64_json))
        print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
