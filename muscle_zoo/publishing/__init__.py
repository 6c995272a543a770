"""From a finished run to a card, to the Hub, and back: whether both are what the card says."""
