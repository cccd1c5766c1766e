// Package xapi simulates a XenServer or XCP-ng pool on the wire: JSON-RPC 1.0 and 2.0, XML-RPC, events, tasks, storage space, host memory,
// power states and consoles, so that any client of the XenAPI can be run against it.
//
// # What it is true to
//
// Its answers, its waiting and its order of events are those of a real xapi v24.11 (API 2.21): package replay runs recordings of one
// against it and lists every exception with its reason; testdata keeps condensed recordings that run in every test. What was not seen on a
// real xapi follows the datamodel (datamodel.json, the classes that clients touch). Package judge runs other people's clients.
//
// # What it is not
//
// Messages of the datamodel that are neither generated from a field nor simulated answer NOT_IMPLEMENTED. Of export, import and
// raw disk transfer only the refusals are there; migration between pools and RBAC are not there. Storage follows the bookkeeping driver of the recordings: a
// clone counts with its whole size, a full SR is SR_BACKEND_FAILURE_44. A member that is not the master answers HOST_IS_SLAVE to every call
// with a session; the real one forwards some.
//
// # For tests
//
// [Server.Hold] stops an operation in its middle, [Server.SetDelay] makes it slow, [Server.AddFault] makes it fail or loses its answer,
// [Server.Restart] and [Server.ExpireSessions] take sessions and tasks away, Config.State keeps a pool whose process is killed, [Server.Calls] and [Server.Sessions] count what a client did.
// Guests are attached by Config.OnPower, and report their addresses by Config.GuestAddress or [Server.ReportGuest].
//
// # Layout
//
// http.go, wire_json.go and wire_xml.go read and write the wire; dispatch.go checks a call and finds its handler; record.go and query.go
// answer what is generated from the datamodel; session.go, task.go, event.go, vm*.go, vdi.go, vbd.go, vif.go, host.go and storage.go are the
// messages that do more; db.go holds the rows; wait.go lets conflicting operations take turns; seed.go makes a fresh pool.
package xapi
