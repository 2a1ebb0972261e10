"""Why a mechanism is slower than its MACs: operators, bytes, launches and time, phase by phase."""
