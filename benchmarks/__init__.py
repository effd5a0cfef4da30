"""How fast and how big: opskit beside what people would use instead, measured in one run on one machine."""
