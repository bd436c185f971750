"""The chaos suite: real servers under load, broken at random moments, and a judge who believes no one but the disk.

A ``Blueprint`` says what a deployment consists of, ``deploy()`` builds it, ``Load`` starts jobs in it, and ``FAULTS``
break it: ``run()`` puts them together and gives the ``Verdict``. A new fault is a function in faults.py.
"""
