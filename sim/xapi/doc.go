// Package xapi simulates a XenServer or XCP-ng pool on the wire: JSON-RPC 1.0 and 2.0, XML-RPC, events, tasks, storage space, host memory,
// power states and consoles, so that any client of the XenAPI can be run against it. Its answers, its waiting and its order of events
// follow a real xapi (v24.11); what was not seen there follows the datamodel.
package xapi
