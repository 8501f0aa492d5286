"""How the small model that ships is made, and the evidence of what it can do."""
