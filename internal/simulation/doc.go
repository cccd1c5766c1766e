// Package simulation runs whole sites by seed: several workers on one store, with intake, outbox and appliance controllers, a panel, a
// broker, hypervisors, guests and appliances, under one scheduler with a clock of its own. A seed gives the orders, the faults and the length of
// every call; one seed has one history, to the byte. After every event, and at the end, it is looked whether anything has come to be that
// must never be.
//
// What runs is the product's own code where it decides anything: the engine, the process tables and their steps, the statements,
// constraints and triggers of the store (SQLite in memory, on the simulation's clock), intake, outbox and the appliance controller. Stood in for
// are the parts that are nothing but goroutines and wires: the driver's loop, the queue, the agents (their protocol is kept: fences,
// generations, the journal of an interrupted swap), and XenAPI, by the world of orchestratortest.
//
// Every call of a worker to something outside is a point where the scheduler may go on with somebody else, and where a fault of the plan
// may strike: see Kinds. A plan that fails is made smaller by Shrink and kept under testdata, and is run with every test from then on.
package simulation
