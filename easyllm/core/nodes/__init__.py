"""A stage's ranks on many machines: what starts them, where they meet, and how far they are.

``launch`` says what is to be started; ``commands``, ``sbatch`` and ``trainjob`` write it down for every launcher;
``checks`` holds the recipe's cluster against it; ``meeting`` and ``heartbeat`` run in the ranks; ``handover`` tells
the person who starts them.
"""
