"""Engine services: engines behind the protocol that the drivers know, `interface.engine.EngineService`.

`load` chooses which one the settings ask for; each is a module that is imported only then. `own` is our engine: loaded
by `own_engine`, and carried on a worker thread of this process by `stepped`. Neither a door nor a driver can tell
which one it has.
"""
