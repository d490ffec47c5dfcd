"""The pocket world: generated pictures, questions and texts on which a small model can be measured anywhere."""
