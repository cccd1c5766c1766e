package orchestrator

// Fire is the one way a state changes.
var Fire = fire
