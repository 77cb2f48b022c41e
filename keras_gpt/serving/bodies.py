"""Reading a request's body up to a limit."""

from starlette.requests import Request

# Most clients read no answer before they have sent everything. So a body that is somewhat too long
# is read to its end and dropped; beyond this many times the limit the connection is closed.
_DISCARDED = 4


async def read_body(request: Request, limit: int) -> bytes | None:
    """Give the request's body, or None when it is longer than `limit` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > _DISCARDED * limit:
        return None
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= limit:
            body += chunk
        else:
            body.clear()
        if received > _DISCARDED * limit:
            break
    return bytes(body) if received <= limit else None
