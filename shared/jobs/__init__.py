"""Jobs over units of work: what they are, who does them, who may."""
