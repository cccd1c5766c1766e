package iptables

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// cryBatch announcements go out at once, then there is a pause: 3,200 a second fill no switch's queue for the control plane.
const (
	cryBatch = 64
	cryPause = 20 * time.Millisecond
)

// cry tells the neighbours where addresses are now: one ARP announcement for each (RFC 5227, section 3; RFC 5798 asks a new master for
// the same). It stops when another firewall has become the active one. A failure is logged only: the addresses are answered for, and
// neighbours ask again when their caches end.
func (u *Unit) cry(ctx context.Context, addresses []netip.Addr) {
	if len(addresses) == 0 {
		return
	}
	sent, err := u.gratuitous(ctx, addresses)
	if err != nil {
		u.cfg.Log.WarnContext(ctx, "gratuitous ARP was not sent for all addresses", "sent", sent, "of", len(addresses), "error", err)
		return
	}
	u.cfg.Log.InfoContext(ctx, "public addresses are announced", "addresses", len(addresses), "sent", sent)
}

func (u *Unit) gratuitous(ctx context.Context, addresses []netip.Addr) (sent int, err error) {
	dev, err := net.InterfaceByName(u.cfg.Announce.Interface)
	if err != nil {
		return 0, err
	}
	if len(dev.HardwareAddr) != 6 {
		return 0, fmt.Errorf("%s has no hardware address of Ethernet's", dev.Name)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // protocol 0: nothing is received
	if err != nil {
		return 0, fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: dev.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	pause := time.NewTicker(cryPause)
	defer pause.Stop()
	for i, a := range addresses {
		if i%cryBatch == 0 {
			if active, err := u.active(); err != nil || !active {
				return sent, err
			}
			if i > 0 {
				select {
				case <-ctx.Done():
					return sent, context.Cause(ctx)
				case <-pause.C:
				}
			}
		}
		if err := unix.Sendto(fd, arpAnnouncement(dev.HardwareAddr, a), 0, to); err != nil {
			return sent, fmt.Errorf("send on %s: %w", dev.Name, err)
		}
		sent++
	}
	return sent, nil
}

// arpAnnouncement is an ARP request of an address for itself (RFC 826).
func arpAnnouncement(mac net.HardwareAddr, a netip.Addr) []byte {
	packet := make([]byte, 0, 28)
	packet = binary.BigEndian.AppendUint16(packet, 1) // Ethernet
	packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IP)
	packet = append(packet, 6, 4) // lengths of both addresses
	packet = binary.BigEndian.AppendUint16(packet, 1)
	packet = append(packet, mac...)
	packet = append(packet, a.AsSlice()...)
	packet = append(packet, 0, 0, 0, 0, 0, 0)
	return append(packet, a.AsSlice()...)
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }
