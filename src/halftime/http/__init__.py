"""What our HTTP servers (serve, captions) share: a socket, a server that drains, limits, OpenAI's
error shape, metrics. Needs starlette, uvicorn and prometheus-client."""
