"""trainer: experiments composed from small pieces, validated before they cost anything, run on any engine."""

__version__ = "0.1.0"
