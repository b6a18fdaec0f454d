"""Why a model cannot be served; each message is one line for the person who started the worker.

ModelLoadError                  the path, files or settings are wrong
└── ModelNotSupportedError      the files are fine, the architecture is not one we can run
"""


class ModelLoadError(Exception):
    """The model could not be loaded; the message names what to correct."""


class ModelNotSupportedError(ModelLoadError):
    """The model needs something that this engine does not do; the message names it."""
