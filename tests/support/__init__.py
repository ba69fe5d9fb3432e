"""What tests share: machines, random programs and scenarios, and slow plain implementations to compare with."""
