# insert.pl FAULTS FOLDER: puts every fault of the list into the headers of FOLDER, prints the list with numbers. A fault that does not fit
# exactly one place, or overlaps another, ends it.
use strict;
use warnings;

my ($list, $folder) = @ARGV;
my (%faults, $number, $bad);
open(my $in, '<', $list) or die "$list: $!\n";
while (my $line = <$in>) {
  chomp $line;
  next if $line =~ /^#/ || $line =~ /^\s*$/;
  my ($header, $text, $meaning, $tests) = split(/\t/, $line);
  ++$number;
  my ($before, $old, $new, $after) = $text =~ /^(.*?)\{\{(.*?) => (.*?)\}\}(.*)$/ or die "$list: no {{old => new}} in: $line\n";
  die "$list: no test in: $line\n" unless defined $tests && $tests ne '';
  push @{$faults{$header}}, [$number, $before, $old, $new, $after];
  print "$number\t$line\n";
}

sub pattern {  # any white space where there is some
  return join('\s+', map { quotemeta } split(/\s+/, $_[0], -1));
}

for my $header (sort keys %faults) {
  my $path = "$folder/$header";
  open(my $file, '<', $path) or do { warn "$header: $!\n"; $bad = 1; next; };
  my $code = do { local $/; <$file> };
  close($file);
  my @places;
  for my $fault (@{$faults{$header}}) {
    my ($id, $before, $old, $new, $after) = @$fault;
    my ($b, $o, $a) = map { pattern($_) } $before, $old, $after;
    my @found;
    while ($code =~ /$b($o)$a/g) {
      push @found, [$-[1], $+[1]];
      pos($code) = $-[0] + 1;
    }
    if (@found != 1) {
      warn "$header: fits " . @found . " places: $before\{\{$old => $new\}\}$after\n";
      $bad = 1;
      next;
    }
    push @places, [@{$found[0]}, $id, $new];
  }
  @places = sort { $b->[0] <=> $a->[0] || $a->[2] <=> $b->[2] } @places;  # the last first, so that the others' places stay
  my $end;
  while (@places) {
    my ($from, $to) = @{$places[0]};
    if (defined $end && $to > $end) {
      warn "$header: two faults overlap: " . substr($code, $from, $to - $from) . "\n";
      $bad = 1;
    }
    $end = $from;
    my @same;
    push @same, shift @places while @places && $places[0][0] == $from && $places[0][1] == $to;
    my $old = substr($code, $from, $to - $from);
    my $made = $old =~ /[;}]$/ ? "{ $old }" : "($old)";
    for my $fault (@same) {
      my (undef, undef, $id, $new) = @$fault;
      if ($old !~ /[;}]$/ && $new eq '') {
        warn "$header: an expression that becomes nothing: \{\{$old => \}\}\n";
        $bad = 1;
      }
      if ($old =~ /[;}]$/) {
        $made = "{ if (IMPLICIT_ATTENTION_FAULT($id)) { $new } else $made }";
      } else {
        my ($value, $type) = $new =~ /^(.*?)(?: as (.*))?$/;
        $made = defined $type ? "(IMPLICIT_ATTENTION_FAULT($id) ? $type($value) : $type($made))" : "(IMPLICIT_ATTENTION_FAULT($id) ? ($value) : $made)";
      }
    }
    substr($code, $from, $to - $from) = $made;
  }
  $code =~ s/^#pragma once\n/#pragma once\n#include <implicit_attention\/fault.hpp>\n/m or die "$header: no #pragma once\n";
  open(my $out, '>', $path) or die "$path: $!\n";
  print $out $code;
  close($out);
}
open(my $chosen, '>', "$folder/fault.hpp") or die "$folder/fault.hpp: $!\n";
print $chosen <<'CODE';
// Which fault of tests/mutation/faults.txt is in force: the number that the environment variable IMPLICIT_ATTENTION_FAULT holds.
#pragma once

#include <cstdlib>
#include <type_traits>

inline const int implicit_attention_chosen_fault = [] {
  const char* const text = std::getenv("IMPLICIT_ATTENTION_FAULT");
  return text == nullptr ? 0 : std::atoi(text);
}();
constexpr bool implicit_attention_fault(int number) { return !std::is_constant_evaluated() && implicit_attention_chosen_fault == number; }
#define IMPLICIT_ATTENTION_FAULT(number) implicit_attention_fault(number)
CODE
close($chosen);
exit($bad ? 1 : 0);
