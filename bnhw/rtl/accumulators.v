// PE accumulators. Stage 2 in, stage 3 out: sums of the array's terms, or sums or maxima of lanes. They wrap.
module accumulators #(
    parameter PE = 4,
    parameter ACC_BITS = 16,
    parameter TERM_BITS = 11
) (
    input clk,
    input valid,
    input first,                      // of an interval: begin anew
    input convolve,
    input maximum,
    input in_image,                     // a maximum ignores what lies outside the image
    input [15:0] lanes_used,          // other lanes give 0
    input [5:0] shift,                // place of the terms' plane
    input [33:0] offset,              // subtracted from the lanes' numbers
    input [PE*TERM_BITS-1:0] terms,
    input [PE*ACC_BITS-1:0] numbers,
    output reg [PE*ACC_BITS-1:0] sums
);
    localparam WIDE = (ACC_BITS > TERM_BITS ? ACC_BITS : TERM_BITS) + 1;
    localparam [ACC_BITS-1:0] LOWEST = {1'b1, {(ACC_BITS-1){1'b0}}};

    wire [ACC_BITS+33:0] wide_offset = {{ACC_BITS{offset[33]}}, offset};
    genvar pe;
    generate
        for (pe = 0; pe < PE; pe = pe + 1) begin : each
            localparam [15:0] NUMBER = pe;
            wire [TERM_BITS-1:0] term = terms[pe*TERM_BITS +: TERM_BITS];
            wire [WIDE-1:0] placed = {{(WIDE-TERM_BITS){term[TERM_BITS-1]}}, term} << shift;
            wire [ACC_BITS-1:0] code = numbers[pe*ACC_BITS +: ACC_BITS] - wide_offset[ACC_BITS-1:0];
            wire [ACC_BITS-1:0] value = convolve ? placed[ACC_BITS-1:0] : NUMBER < lanes_used ? code : {ACC_BITS{1'b0}};
            wire [ACC_BITS-1:0] so_far = !first ? sums[pe*ACC_BITS +: ACC_BITS] : maximum ? LOWEST : {ACC_BITS{1'b0}};
            wire larger = $signed(value) > $signed(so_far);
            always @(posedge clk)
                if (valid) sums[pe*ACC_BITS +: ACC_BITS]
                    <= !maximum ? so_far + value : in_image && larger ? value : so_far;
            wire unused = &{1'b0, placed};
        end
    endgenerate
    wire unused = &{1'b0, wide_offset};
endmodule
