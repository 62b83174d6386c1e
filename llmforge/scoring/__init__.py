"""How well a model predicts text: which text, sums, figures."""
