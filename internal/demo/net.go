package demo

import (
	"net"
	"os"
	"syscall"
)

// refused and unreachable are what a dialer says for a real network.
func refused(address string) error { return dialError(address, syscall.ECONNREFUSED) }

func unreachable(address string) error { return dialError(address, syscall.EHOSTUNREACH) }

func dialError(address string, errno syscall.Errno) error {
	addr, _ := net.ResolveTCPAddr("tcp", address) // an address literal
	return &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: os.NewSyscallError("connect", errno)}
}
