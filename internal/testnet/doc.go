// Package testnet builds small networks for tests: network namespaces, the veth pairs and bridges between them, and processes inside.
//
//	lab := testnet.New(t)
//	server, client := lab.Namespace("server"), lab.Namespace("client")
//	lab.Link(server, "eth0", client, "eth0")
//	server.MustRun("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
//	server.Start("dhcpd", "-f", "eth0")
//
// Nothing outlives the test process, however it ends: a namespace is held by an open descriptor and a thread, never by a name under
// /run/netns, and a started process dies with its parent. A network namespace isolates the network alone: files, hostname and process
// ids are the machine's, so a program with fixed paths needs a mount namespace besides (see [Namespace.Path]).
//
// A Lab and its namespaces may be used by the goroutines of one test at the same time. Every method fails the test rather than return an
// error, save Run, whose caller may want a failure; so call them from the test's own goroutine.
package testnet
