"""The commands `rlm-obs prices …`: what models cost, by whom, and why a call cost what it did."""
