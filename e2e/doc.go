// Package e2e holds the tests that put everything together: the built binary as processes, RabbitMQ, PostgreSQL, the simulated XenAPI pool,
// and a site of network namespaces in which the real dhcpd, iptables and sshd are the appliances.
//
// A site is one test's. Nothing of it outlives the test, and nothing of the machine is changed: see internal/testnet and internal/testguest.
package e2e
