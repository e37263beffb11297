"""Where a number comes from, for the scripts of this folder; ``ultraflash bench`` says it too."""

from ultraflash.models.provenance import ROOT, commit, installed, provenance

__all__ = ["ROOT", "commit", "installed", "provenance"]
