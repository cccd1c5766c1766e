// Package names is how machines get their names in the DNS.
//
// A backend is a folder beside this file with a type that is an orchestrator.Names. To write one: mark what is made with the machine's id, so
// that it is known again whoever asks and however long after; make it only where nothing is, in one act with its mark; remove it only with its
// mark, in one act too; and tell what the server that answers for the zone shows, not what was sent. Then let namestest judge it.
package names
