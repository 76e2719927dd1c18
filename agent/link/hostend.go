package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// HostEnd is what EnsureHostEnds compares of one endpoint's end on the host.
type HostEnd struct {
	Name      string
	Userspace bool // the switch forwards in user space
}

// quietSysctls are what keeps the kernel quiet on a host's end, and deaf to what a
// container sends past the switch.
func quietSysctls(host string) error {
	// No router solicitation and no MLD report of the host's own into the network.
	if err := disableIPv6(host); err != nil {
		return err
	}
	for _, s := range []struct{ key, value string }{
		// 8: do not answer for any local address (ip-sysctl).
		{"arp_ignore", "8"},
		// 1, strict (RFC 3704): no route leads to this interface, so the kernel
		// takes no packet from it.
		{"rp_filter", "1"},
	} {
		if err := setSysctl("net/ipv4/conf/"+host+"/"+s.key, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// EnsureHostEnds puts back what somebody took from the host's ends: that they are
// up, their kernel settings and, with a switch in user space, the chains that keep
// the kernel from hearing them. One that is not there is passed over. What fails is
// joined and does not stop the rest.
func (l *Links) EnsureHostEnds(ctx context.Context, ends []HostEnd) error {
	var errs []error
	var deaf []string
	c, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(c)
	for _, end := range ends {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		there, err := c.ensureHostEnd(end.Name)
		if err != nil {
			errs = append(errs, fmt.Errorf("host's end %q: %w", end.Name, err))
		}
		if there && end.Userspace {
			deaf = append(deaf, end.Name)
		}
	}
	return errors.Join(append(errs, l.ensureDeaf(deaf))...)
}

func (c *conn) ensureHostEnd(name string) (there bool, err error) {
	link, err := c.byName(name)
	if err != nil || link == nil {
		return false, err
	}
	if err := quietSysctls(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	if isUp(link) {
		return true, nil
	}
	err = c.LinkSetUp(link)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return false, nil
	}
	return true, err
}

// ensureDeaf makes the ingress chains that are missing. Which are there is asked
// for all at once.
func (l *Links) ensureDeaf(hosts []string) error {
	if len(hosts) == 0 {
		return nil
	}
	in := &l.ingress
	in.change.Lock()
	defer in.change.Unlock()
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have, err := ingressChains(nft)
	if err != nil {
		return err
	}
	var errs []error
	for _, host := range hosts {
		c := have[host]
		if c != nil && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			continue
		}
		// One by one: a link that goes just now must not fail the others.
		if err := addIngressDrops(host); err != nil && linkExists(host) {
			errs = append(errs, err)
		} else if err == nil {
			l.log.Info("an ingress chain is put back", "port", host)
		}
	}
	return errors.Join(errs...)
}
