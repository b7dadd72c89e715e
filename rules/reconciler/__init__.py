"""The engine behind what needs a second record or the passing of time: one pure step after another."""
