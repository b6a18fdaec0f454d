"""From logits to tokens: what changes a row's distribution, and how one token is drawn from it.

Every processor works on the whole batch in place, is built only when a row asks for it, and leaves
the other rows' bits untouched.
"""
