"""Coarse-grained force fields judged by atomistic forces on backmapped structures (Stieffenhofer, thesis, ch. 6)."""
