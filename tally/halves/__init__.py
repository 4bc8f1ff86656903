"""The participant's shell: what one service keeps of a relationship, and the settler that compares both sides.

:mod:`.store` says what a store does; :mod:`.postgres` and :mod:`.memory` do it. :mod:`.routes` serves it to
gateways and settlers, :mod:`.peer` is how those call it, :mod:`.settler` repairs what a crash left.
"""
