"""Search all states that a few nodes can reach for one in which an acknowledged log-out does not hold.

The simulation tries some long histories of many nodes. This is the opposite: few nodes, one log-out, and within stated bounds
*all* orders of messages, crashes and the passing of time. A fault that it finds comes with a shortest path to it.

It is a search in Python and no model in TLA+, because nothing is modelled that could be the real thing: the nodes are the objects of
:mod:`ha_session_mw._core`, and there is no second account of their rules to fall behind the first. To copy whole clusters at each
step would be too slow, because there are millions of steps. But one node alone can be in a few thousand states only. So each thing that a
node can do is done by the real code once in each of *its* states (:mod:`.workshop`), and a state of the cluster is a handful of numbers.

The model invents only the nodes' surroundings: a network, time in steps of half a lease, files, an engine that makes no mistake.
It leaves out: wall clocks, floors, look-ups among peers, and how the drivers obey. The simulation has these. Log-outs
everywhere need no messages: :mod:`.cuts` tries them with every error of two clocks.
"""
