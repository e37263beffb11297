"""Sub-commands of ``ultraflash`` that belong to the server; each module is one entry point."""
