// Package monitoring is how the site's monitoring learns which machines there are.
//
// A backend is a folder beside this file with a type that is an orchestrator.Monitoring. To write one: know a host by the machine's id alone,
// make registering and removing it safe to repeat, and read back what is kept, not what was sent. Then let monitoringtest judge it.
package monitoring
