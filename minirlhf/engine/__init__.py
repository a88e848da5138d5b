"""What touches models, data and disk."""

import logging

# bitsandbytes logs a missing optional kernel on import, even where nothing is quantised
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
