"""The async fronts: wait with anyio, on asyncio, uvloop and trio."""
