"""Engine services: engines behind the protocol that the drivers know, `interface.engine.EngineService`.

`stepped` carries an engine of this process, stepped on a worker thread; `own_engine` loads ours. `load` chooses which
service the settings ask for. Neither a door nor a driver can tell which one it has.
"""
