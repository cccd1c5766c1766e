// Package xapi talks to XenServer and XCP-ng pools.
//
// Client is the wire: JSON-RPC 2.0 with sessions, redirects to the master, failover between members, typed errors and tasks, for one
// pool. Backend is the orchestrator's Hypervisor on top of one Client per pool.
//
// Facts about the protocol that comments give without a source were measured on xapi 24.11 (API 2.21), the XenServer 8 and XCP-ng 8.3
// generation.
package xapi
