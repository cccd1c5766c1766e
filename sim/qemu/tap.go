package qemu

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// newTap makes a tap on a bridge of the calling thread's network namespace. It is there as long as somebody has its descriptor open.
func newTap(bridge string) (*os.File, error) {
	if _, err := os.Stat("/sys/class/net"); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	tap := os.NewFile(uintptr(fd), "tap")
	if err := plug(fd, bridge); err != nil {
		_ = tap.Close()
		return nil, err
	}
	return tap, nil
}

func plug(fd int, bridge string) error {
	req, err := unix.NewIfreq("tap%d") // the kernel counts
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make a tap: %w", err)
	}
	name := req.Name()
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(control) //nolint:errcheck // nothing is left to be done about it
	tap, err := index(control, name)
	if err != nil {
		return err
	}
	if _, err := index(control, bridge); err != nil {
		return fmt.Errorf("bridge %s is not on this machine: %w; `ip link add %s type bridge` makes one", bridge, err, bridge)
	}
	on, err := unix.NewIfreq(bridge)
	if err != nil {
		return err
	}
	on.SetUint32(tap)
	if err := unix.IoctlIfreq(control, unix.SIOCBRADDIF, on); err != nil {
		return fmt.Errorf("put %s on bridge %s: %w", name, bridge, err)
	}
	up, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, up)
}

// index is an interface's number. net.InterfaceByName asks from whatever thread.
func index(control int, name string) (uint32, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(control, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return req.Uint32(), nil
}

// pair is a connection without a name: one end for us, the other to be given away.
func pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer near.Close() //nolint:errcheck // FileConn has made a copy
	conn, err := net.FileConn(near)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}
