"""Send the records of ``logging`` to a receiver, and make records of them there.

Many processes write one log: each has a ``Handler``, and one process receives, as ``listen`` does,
or ``mpsr recv --decode log``. A record travels as a message, an object of JSON on one line.
"""

from mpsr.logging.decoding import decode
from mpsr.logging.handler import Handler
from mpsr.logging.listening import listen, records

__all__ = ["Handler", "decode", "listen", "records"]
